# A stopped VM as an appliance on its host, exported anew when the version changes.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

provider "ondol" {
  hosts = {
    srv-01 = { engine = "virtualbox" }
  }
}

# An .ova on the machine that runs Terraform, and the public key that may log in.
variable "image" { type = string }
variable "authorized_key" { type = string }

resource "ondol_vm" "web" {
  host       = "srv-01"
  name       = "web-01"
  image      = var.image
  memory_mib = 512
  power      = "stopped"
  seed = {
    user            = "ops"
    authorized_keys = [var.authorized_key]
  }
}

resource "ondol_ova_export" "web" {
  host     = ondol_vm.web.host
  vm       = ondol_vm.web.id
  path     = "/tmp/web-01.ova"
  triggers = { version = "1" }
}

output "sha256" {
  value = ondol_ova_export.web.sha256
}
