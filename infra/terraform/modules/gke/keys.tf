# One key encrypts the cluster's secrets, the nodes' disks, the buckets and the images.
resource "google_kms_key_ring" "this" {
  project  = var.project
  name     = var.name
  location = var.region
}

resource "google_kms_crypto_key" "this" {
  name            = var.name
  key_ring        = google_kms_key_ring.this.id
  rotation_period = "7776000s" # 90 days
  lifecycle {
    # Without it nothing can be read any more.
    prevent_destroy = true
  }
}

data "google_project" "this" {
  project_id = var.project
}

data "google_storage_project_service_account" "this" {
  project = var.project
}

# Google's own agents use the key; nobody else does.
resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = {
    gke      = "service-${data.google_project.this.number}@container-engine-robot.iam.gserviceaccount.com"
    disks    = "service-${data.google_project.this.number}@compute-system.iam.gserviceaccount.com"
    registry = "service-${data.google_project.this.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    storage  = data.google_storage_project_service_account.this.email_address
  }
  crypto_key_id = google_kms_crypto_key.this.id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"
}
