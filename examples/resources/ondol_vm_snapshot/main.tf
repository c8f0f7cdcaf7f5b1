# A moment of a VM to go back to: set `restore` to another text, such as today's date.
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
  disks      = { data = { size_mib = 16 } }
  power      = "stopped"
  seed = {
    user            = "ops"
    authorized_keys = [var.authorized_key]
  }
}

resource "ondol_vm_snapshot" "clean" {
  host        = ondol_vm.web.host
  vm          = ondol_vm.web.id
  name        = "clean"
  description = "As it was made"
}
