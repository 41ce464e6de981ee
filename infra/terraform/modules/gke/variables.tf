variable "project" {
  description = "Google Cloud project that everything is made in."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project id: 6 to 30 lower-case letters, digits and hyphens, e.g. plates-prod."
  }
}

variable "region" {
  description = "Region of the cluster, the buckets and the keys."
  type        = string
  default     = "europe-west4"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a region and no zone, e.g. europe-west4."
  }
}

variable "name" {
  description = "Name of the cluster and prefix of what belongs to it."
  type        = string
  default     = "plates"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must have 3 to 20 lower-case letters, digits and hyphens (names of accounts are derived from it)."
  }
}

variable "admin_networks" {
  description = "Who may reach the API server: name -> CIDR."
  type        = map(string)
  validation {
    condition     = length(var.admin_networks) > 0 && alltrue([for c in values(var.admin_networks) : can(cidrhost(c, 0)) && c != "0.0.0.0/0"])
    error_message = "admin_networks must name at least one CIDR, and not the whole internet, e.g. { office = \"198.51.100.0/24\" }."
  }
}

variable "network" {
  description = "Address ranges: nodes, pods, services, and the /28 of the control plane."
  type = object({
    nodes    = string
    pods     = string
    services = string
    master   = string
  })
  default = {
    nodes    = "10.10.0.0/20"
    pods     = "10.20.0.0/16"
    services = "10.30.0.0/20"
    master   = "172.16.0.0/28"
  }
  validation {
    condition     = alltrue([for c in values(var.network) : can(cidrhost(c, 0))]) && endswith(var.network.master, "/28")
    error_message = "network must hold four CIDRs, and master must be a /28."
  }
}

variable "cpu_pool" {
  description = "Nodes of the pipeline's steps and the endpoint; may scale to zero. Counts are by zone."
  type        = object({ machine_type = string, min = number, max = number })
  default     = { machine_type = "e2-standard-8", min = 0, max = 4 }
  validation {
    condition     = var.cpu_pool.min >= 0 && var.cpu_pool.max >= max(var.cpu_pool.min, 1)
    error_message = "cpu_pool needs 0 <= min <= max and max >= 1."
  }
}

variable "gpu_pool" {
  description = "Nodes of tuning and training; idle it has none. Counts are by zone."
  type        = object({ machine_type = string, accelerator = string, per_node = number, max = number })
  default     = { machine_type = "g2-standard-8", accelerator = "nvidia-l4", per_node = 1, max = 1 }
  validation {
    condition     = can(regex("^nvidia-", var.gpu_pool.accelerator)) && contains([1, 2, 4, 8], var.gpu_pool.per_node) && var.gpu_pool.max >= 1
    error_message = "gpu_pool needs an accelerator such as nvidia-l4, 1, 2, 4 or 8 of them per node, and max >= 1."
  }
}

variable "gpu_zones" {
  description = "Zones that have that accelerator."
  type        = list(string)
  default     = ["europe-west4-a", "europe-west4-b"]
  validation {
    condition     = length(var.gpu_zones) > 0 && alltrue([for z in var.gpu_zones : startswith(z, "${var.region}-")])
    error_message = "gpu_zones must be zones of the region, e.g. europe-west4-a."
  }
}

variable "namespaces" {
  description = "Namespaces whose service account `external-secrets` reads the secrets: those of the SecretStores."
  type        = set(string)
  default     = ["plates", "mlflow"]
  validation {
    condition     = alltrue([for n in var.namespaces : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", n))])
    error_message = "namespaces must be names that Kubernetes takes."
  }
}

variable "deletion_protection" {
  description = "Refuse to destroy the cluster."
  type        = bool
  default     = true
}

variable "store_access_id" {
  description = "Access id (the public half) of the HMAC key that was made for the account of the bucket platecrypt."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(GOOG[A-Z0-9]+)?$", var.store_access_id))
    error_message = "store_access_id must be an access id, which begins with GOOG; the secret half never goes here."
  }
}
