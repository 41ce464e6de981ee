# Buckets of pictures and models, of MLflow's artifacts and of backups; the registry of the images.
locals {
  # Bucket -> days that an overwritten or deleted object stays. Names are unique in the world.
  buckets = { platecrypt = 30, mlflow = 30, backups = 7 }
  images  = toset(["data", "train", "deploy", "predictor", "transformer", "mlflow"])
  # A dump that was written is not deleted by whoever writes them.
  may = {
    platecrypt = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    mlflow     = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    backups    = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
  }
}

resource "aws_s3_bucket" "this" {
  # checkov:skip=CKV_AWS_144:a copy in a second region doubles the price of the pictures; backups are restored, not failed over to
  # checkov:skip=CKV_AWS_18:who read what is CloudTrail's (data events), which an account has once
  # checkov:skip=CKV2_AWS_62:nothing waits for events of the bucket
  for_each = local.buckets
  bucket   = "${var.name}-${data.aws_caller_identity.this.account_id}-${each.key}"
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.buckets
  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = each.value
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
    dynamic "expiration" {
      for_each = each.key == "backups" ? [30] : []
      content {
        days = expiration.value
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = aws_s3_bucket.this
  statement {
    sid       = "OnlyTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.this[each.key].id
  policy     = data.aws_iam_policy_document.bucket[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.this]
}

# Who works with a bucket. Their access keys are made by hand and go straight into the secret manager, so that
# no state file ever holds one.
resource "aws_iam_user" "store" {
  # checkov:skip=CKV_AWS_273:a program that speaks S3 with a key pair, as MinIO's and SeaweedFS's users do; no person signs in
  for_each = local.buckets
  name     = "${var.name}-${each.key}"
}

resource "aws_iam_group" "store" {
  for_each = local.buckets
  name     = "${var.name}-${each.key}"
}

resource "aws_iam_user_group_membership" "store" {
  for_each = local.buckets
  user     = aws_iam_user.store[each.key].name
  groups   = [aws_iam_group.store[each.key].name]
}

data "aws_iam_policy_document" "store" {
  for_each = aws_s3_bucket.this
  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    resources = [each.value.arn]
  }
  statement {
    actions   = local.may[each.key]
    resources = ["${each.value.arn}/*"]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
}

resource "aws_iam_policy" "store" {
  for_each = local.buckets
  name     = "${var.name}-${each.key}"
  policy   = data.aws_iam_policy_document.store[each.key].json
}

resource "aws_iam_group_policy_attachment" "store" {
  for_each   = local.buckets
  group      = aws_iam_group.store[each.key].name
  policy_arn = aws_iam_policy.store[each.key].arn
}

resource "aws_ecr_repository" "this" {
  for_each             = local.images
  name                 = "${var.name}/platecrypt-${each.value}"
  image_tag_mutability = "IMMUTABLE"
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this.arn
  }
  image_scanning_configuration {
    scan_on_push = true
  }
}
