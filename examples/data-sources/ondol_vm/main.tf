# A VM, looked up by its name.
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

# The public key that may log in, and the private key's file.
variable "authorized_key" { type = string }

resource "ondol_golden_image" "base" {
  suite = "bookworm"
}

resource "ondol_vm" "web" {
  host       = "srv-01"
  name       = "web-01"
  image      = ondol_golden_image.base.path
  memory_mib = 256
  seed = {
    user            = "ops"
    authorized_keys = [var.authorized_key]
  }
}

data "ondol_vm" "web" {
  host = ondol_vm.web.host
  name = ondol_vm.web.name
}

output "first_boot_address" {
  value = data.ondol_vm.web.first_boot_address
}
