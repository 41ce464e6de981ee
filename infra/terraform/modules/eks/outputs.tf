output "region" {
  description = "Region of the cluster, its secrets and buckets."
  value       = var.region
}

output "cluster" {
  description = "Name of the cluster; `aws eks update-kubeconfig --name` takes it."
  value       = aws_eks_cluster.this.name
}

output "registry" {
  description = "REGISTRY of `make images` and of `platecrypt compile --registry`."
  value       = local.registry
}

output "buckets" {
  description = "Name of each bucket."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.id }
}

output "store_users" {
  description = "Who works with each bucket: make an access key of each, and put it into the secret manager."
  value       = { for name, user in aws_iam_user.store : name => user.name }
}

output "autoscaler_role" {
  description = "Role of the Cluster Autoscaler's service account (kube-system/cluster-autoscaler)."
  value       = aws_iam_role.pod["autoscaler"].arn
}

output "kms_key" {
  description = "The key that encrypts what is stored."
  value       = aws_kms_key.this.arn
}

output "kustomization" {
  description = "An overlay on top of infra/kustomize/overlays/production with this cluster's names: `terraform output -raw kustomization > infra/kustomize/overlays/NAME/kustomization.yaml`."
  value = templatefile("${path.module}/kustomization.yaml.tftpl", {
    region    = var.region
    role      = aws_iam_role.pod["external-secrets"].arn
    access_id = var.store_access_id
    bucket    = aws_s3_bucket.this["platecrypt"].id
    mlflow    = aws_s3_bucket.this["mlflow"].id
    backups   = aws_s3_bucket.this["backups"].id
    registry  = local.registry
  })
}

locals {
  registry = "${data.aws_caller_identity.this.account_id}.dkr.ecr.${var.region}.amazonaws.com/${var.name}"
}
