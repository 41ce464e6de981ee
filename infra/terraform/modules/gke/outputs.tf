output "project" {
  description = "Project of the cluster and its secrets."
  value       = var.project
}

output "location" {
  description = "Where the cluster is."
  value       = google_container_cluster.this.location
}

output "cluster" {
  description = "Name of the cluster; `gcloud container clusters get-credentials` takes it."
  value       = google_container_cluster.this.name
}

output "registry" {
  description = "REGISTRY of `make images` and of `platecrypt compile --registry`."
  value       = local.registry
}

output "buckets" {
  description = "Name of each bucket."
  value       = { for name, bucket in google_storage_bucket.this : name => bucket.name }
}

output "store_accounts" {
  description = "Who works with each bucket: make an HMAC key of each, and put it into the secret manager."
  value       = { for name, account in google_service_account.store : name => account.email }
}

output "kms_key" {
  description = "The key that encrypts what is stored."
  value       = google_kms_crypto_key.this.id
}

output "kustomization" {
  description = "An overlay on top of infra/kustomize/overlays/production with this cluster's names: `terraform output -raw kustomization > infra/kustomize/overlays/NAME/kustomization.yaml`."
  value = templatefile("${path.module}/kustomization.yaml.tftpl", {
    project   = var.project
    access_id = var.store_access_id
    location  = google_container_cluster.this.location
    cluster   = google_container_cluster.this.name
    account   = google_service_account.external_secrets.email
    bucket    = google_storage_bucket.this["platecrypt"].name
    mlflow    = google_storage_bucket.this["mlflow"].name
    backups   = google_storage_bucket.this["backups"].name
    registry  = local.registry
  })
}

locals {
  registry = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.this.repository_id}"
}
