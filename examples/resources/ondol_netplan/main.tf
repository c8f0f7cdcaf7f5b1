# A VM with a static address. A network that cuts the guest off takes itself back.
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
variable "private_key_file" { type = string }

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

resource "ondol_netplan" "web" {
  host               = ondol_vm.web.host
  vm                 = ondol_vm.web.id
  first_boot_address = ondol_vm.web.first_boot_address
  hostname           = ondol_vm.web.name
  ethernets = {
    enp0s3 = {
      addresses   = ["192.168.10.29/24"]
      gateway4    = "192.168.10.1"
      nameservers = { addresses = ["192.168.10.12"] }
    }
  }
  ssh = {
    user             = "ops"
    private_key_file = var.private_key_file
    host_key         = ondol_vm.web.ssh_host_key
  }
}
