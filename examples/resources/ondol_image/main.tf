# An appliance on a host before any VM needs it, with the checksum that it must have, and a VM that starts from it.
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

# An .ova on the machine that runs Terraform, or its http(s) address; and its SHA-256.
variable "image" { type = string }
variable "image_sha256" { type = string }

# The public key that may log in.
variable "authorized_key" { type = string }

resource "ondol_image" "base" {
  host     = "srv-01"
  source   = var.image
  checksum = var.image_sha256
}

resource "ondol_vm" "web" {
  host         = ondol_image.base.host
  name         = "web-01"
  image        = ondol_image.base.file
  linked_clone = true
  memory_mib   = 512
  power        = "stopped"
  seed = {
    user            = "ops"
    authorized_keys = [var.authorized_key]
  }
}
