# The cluster: private nodes, workload identity, three pools.
locals {
  # Small and always there: what the platform itself runs on.
  system_pool = { machine_type = "e2-standard-4", min = 1, max = 2 }
  gpu_taint   = { key = "nvidia.com/gpu", value = "present", effect = "NO_SCHEDULE" }
}

resource "google_service_account" "nodes" {
  project      = var.project
  account_id   = "${var.name}-nodes"
  display_name = "Nodes of the cluster ${var.name}"
}

resource "google_project_iam_member" "nodes" {
  for_each = toset([
    "roles/artifactregistry.reader",
    "roles/logging.logWriter",
    "roles/monitoring.metricWriter",
    "roles/monitoring.viewer",
    "roles/stackdriver.resourceMetadata.writer",
  ])
  project = var.project
  role    = each.value
  member  = "serviceAccount:${google_service_account.nodes.email}"
}

resource "google_container_cluster" "this" {
  # checkov:skip=CKV_GCP_65:groups for RBAC need a Google Workspace domain, which not everybody has
  # checkov:skip=CKV_GCP_66:who may bring images is the admission policy of the platform; ours are signed by cosign, which Binary Authorization does not read
  # checkov:skip=CKV_GCP_69:the metadata server is set on each pool; the default pool is removed
  # checkov:skip=CKV_GCP_12:Dataplane V2 enforces NetworkPolicies itself, and refuses the old switch
  project                  = var.project
  name                     = var.name
  location                 = var.region
  network                  = google_compute_network.this.id
  subnetwork               = google_compute_subnetwork.nodes.id
  networking_mode          = "VPC_NATIVE"
  datapath_provider        = "ADVANCED_DATAPATH"
  enable_shielded_nodes    = true
  enable_legacy_abac       = false
  remove_default_node_pool = true
  initial_node_count       = 1
  deletion_protection      = var.deletion_protection

  enable_intranode_visibility = true
  resource_labels             = { app = "safelicensing" }

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }
  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = false
    master_ipv4_cidr_block  = var.network.master
  }
  master_authorized_networks_config {
    dynamic "cidr_blocks" {
      for_each = var.admin_networks
      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }
  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }
  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }
  database_encryption {
    state    = "ENCRYPTED"
    key_name = google_kms_crypto_key.this.id
  }
  release_channel {
    channel = "REGULAR"
  }
  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS"]
  }
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]
  }
  # The pool that is made first and removed at once.
  node_config {
    service_account = google_service_account.nodes.email
    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
  }
  lifecycle {
    ignore_changes = [node_config, initial_node_count]
  }
  depends_on = [google_kms_crypto_key_iam_member.agents]
}

resource "google_container_node_pool" "this" {
  for_each = {
    system = merge(local.system_pool, { accelerators = [], zones = null })
    cpu    = merge(var.cpu_pool, { accelerators = [], zones = null })
    gpu = {
      machine_type = var.gpu_pool.machine_type
      min          = 0
      max          = var.gpu_pool.max
      accelerators = [{ type = var.gpu_pool.accelerator, count = var.gpu_pool.per_node }]
      zones        = var.gpu_zones
    }
  }
  project        = var.project
  name           = each.key
  location       = var.region
  cluster        = google_container_cluster.this.id
  node_locations = each.value.zones

  autoscaling {
    min_node_count = each.value.min
    max_node_count = each.value.max
  }
  management {
    auto_repair  = true
    auto_upgrade = true
  }
  node_config {
    machine_type      = each.value.machine_type
    disk_size_gb      = 100
    disk_type         = "pd-balanced"
    boot_disk_kms_key = google_kms_crypto_key.this.id
    service_account   = google_service_account.nodes.email
    oauth_scopes      = ["https://www.googleapis.com/auth/cloud-platform"]
    # What a node may do is its account's matter; pods have accounts of their own.
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
    metadata = { disable-legacy-endpoints = "true" }
    shielded_instance_config {
      # NVIDIA's driver, as GKE installs it, is signed for it.
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
    # The label that katib/ selects and the taint that the GPU steps tolerate.
    labels = length(each.value.accelerators) == 0 ? {} : { "nvidia.com/gpu.present" = "true" }
    dynamic "guest_accelerator" {
      for_each = each.value.accelerators
      content {
        type  = guest_accelerator.value.type
        count = guest_accelerator.value.count
        gpu_driver_installation_config {
          gpu_driver_version = "DEFAULT"
        }
      }
    }
    dynamic "taint" {
      for_each = length(each.value.accelerators) == 0 ? [] : [local.gpu_taint]
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = taint.value.effect
      }
    }
  }
  depends_on = [google_project_iam_member.nodes]
}

# The External Secrets Operator reads our secrets, by their prefix, and no others.
resource "google_service_account" "external_secrets" {
  project      = var.project
  account_id   = "external-secrets"
  display_name = "Reads the secrets of SafeLicensing"
}

resource "google_project_iam_member" "external_secrets" {
  project = var.project
  role    = "roles/secretmanager.secretAccessor"
  member  = "serviceAccount:${google_service_account.external_secrets.email}"
  condition {
    title      = "safelicensing secrets"
    expression = "resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/safelicensing-\")"
  }
}

resource "google_service_account_iam_member" "external_secrets" {
  for_each           = var.namespaces
  service_account_id = google_service_account.external_secrets.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${each.value}/external-secrets]"
  depends_on         = [google_container_cluster.this]
}
