# Buckets of pictures and models, of MLflow's artifacts and of backups; the registry of the images.
locals {
  # Bucket -> days that an overwritten or deleted object stays. Names are unique in the world.
  buckets = { platecrypt = 30, mlflow = 30, backups = 7 }
}

resource "google_storage_bucket" "this" {
  # checkov:skip=CKV_GCP_62:who read what is in Cloud Audit Logs (data access), which name the caller; usage logs do not
  for_each                    = local.buckets
  project                     = var.project
  name                        = "${var.project}-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  versioning {
    enabled = true
  }
  encryption {
    default_kms_key_name = google_kms_crypto_key.this.id
  }
  lifecycle_rule {
    condition {
      days_since_noncurrent_time = each.value
    }
    action {
      type = "Delete"
    }
  }
  dynamic "lifecycle_rule" {
    for_each = each.key == "backups" ? [30] : []
    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }
  depends_on = [google_kms_crypto_key_iam_member.agents]
}

# Who works with a bucket. Their HMAC keys are made by hand and go straight into the secret manager, so that no
# state file ever holds one.
resource "google_service_account" "store" {
  for_each     = local.buckets
  project      = var.project
  account_id   = "${var.name}-${each.key}"
  display_name = "Objects of the bucket ${each.key}"
}

resource "google_storage_bucket_iam_member" "store" {
  for_each = local.buckets
  bucket   = google_storage_bucket.this[each.key].name
  # A dump that was written is neither changed nor deleted by whoever writes them.
  role   = each.key == "backups" ? "roles/storage.objectCreator" : "roles/storage.objectUser"
  member = "serviceAccount:${google_service_account.store[each.key].email}"
}

resource "google_artifact_registry_repository" "this" {
  project       = var.project
  location      = var.region
  repository_id = var.name
  format        = "DOCKER"
  kms_key_name  = google_kms_crypto_key.this.id
  docker_config {
    immutable_tags = true
  }
  depends_on = [google_kms_crypto_key_iam_member.agents]
}
