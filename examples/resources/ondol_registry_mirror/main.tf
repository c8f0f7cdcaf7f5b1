# Container images, kept as an OCI image layout: `skopeo copy oci:mirror/registry/site:app:1.0 ...` reads it. With `push` they are put
# into a local registry too.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

provider "ondol" {
  hosts = {
    srv-01 = { engine = "lab" }
  }
}

variable "upstream" {
  description = "The registry that images come from, such as registry.example. Null: no images yet."
  type        = string
  default     = null
}

resource "ondol_registry_mirror" "site" {
  name = "site"
  path = abspath("mirror")

  images = var.upstream == null ? {} : {
    "app:1.0" = {
      source    = "${var.upstream}/team/app:1.0"
      platforms = ["linux/amd64"]
    }
  }
}

# By these, machines pull what was mirrored and nothing else.
output "digests" {
  value = ondol_registry_mirror.site.digests
}
