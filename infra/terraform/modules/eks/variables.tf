variable "region" {
  description = "Region of the provider; named again so that the outputs can say it."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region and no zone, e.g. eu-central-1."
  }
}

variable "name" {
  description = "Name of the cluster and prefix of what belongs to it."
  type        = string
  default     = "plates"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must have 3 to 20 lower-case letters, digits and hyphens (names of roles are derived from it)."
  }
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes."
  type        = string
  default     = "1.33"
  validation {
    condition     = can(regex("^1\\.(3[1-9]|[4-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version from 1.31 on, e.g. 1.33."
  }
}

variable "admin_networks" {
  description = "CIDRs that may reach the API server from outside."
  type        = list(string)
  validation {
    condition     = length(var.admin_networks) > 0 && alltrue([for c in var.admin_networks : can(cidrhost(c, 0)) && c != "0.0.0.0/0"])
    error_message = "admin_networks must name at least one CIDR, and not the whole internet, e.g. [\"198.51.100.0/24\"]."
  }
}

variable "cidr" {
  description = "Address range of the network, a /16; it is divided among the zones."
  type        = string
  default     = "10.10.0.0/16"
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && endswith(var.cidr, "/16")
    error_message = "cidr must be a /16, e.g. 10.10.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones; the GPU type must be there in each."
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 3 && alltrue([for z in var.zones : startswith(z, var.region)])
    error_message = "zones must be 2 or 3 zones of the region, e.g. [\"eu-central-1a\", \"eu-central-1b\"]."
  }
}

variable "cpu_pool" {
  description = "Nodes of the pipeline's steps and the endpoint; may scale to zero."
  type        = object({ instance_type = string, min = number, max = number })
  default     = { instance_type = "m7i.2xlarge", min = 0, max = 4 }
  validation {
    condition     = var.cpu_pool.min >= 0 && var.cpu_pool.max >= max(var.cpu_pool.min, 1)
    error_message = "cpu_pool needs 0 <= min <= max and max >= 1."
  }
}

variable "gpu_pool" {
  description = "Nodes of tuning and training; idle it has none."
  type        = object({ instance_type = string, max = number })
  default     = { instance_type = "g6.2xlarge", max = 2 }
  validation {
    condition     = can(regex("^(g|p)[0-9]", var.gpu_pool.instance_type)) && var.gpu_pool.max >= 1
    error_message = "gpu_pool needs an instance type with NVIDIA GPUs (g6.2xlarge, p5.48xlarge, …) and max >= 1."
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

variable "store_access_id" {
  description = "Access key id (the public half) that was made for the user of the bucket platecrypt."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(AKIA[A-Z0-9]+)?$", var.store_access_id))
    error_message = "store_access_id must be an access key id, which begins with AKIA; the secret half never goes here."
  }
}
