# Two VMs on two hosts, named, addressed and listed. Tests edit it.
terraform {
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

variable "user" {
  default = "ops"
}

provider "ondol" {
  hosts = {
    srv-01 = { engine = "lab" }
    srv-02 = { engine = "lab" }
  }
}

locals {
  vms = {
    web-01 = { host = "srv-01", address = "192.168.10.29" }
    web-02 = { host = "srv-02", address = "192.168.10.31" }
  }
}

resource "ondol_golden_image" "base" {
  suite = "bookworm"
}

resource "ondol_vm" "vm" {
  for_each   = local.vms
  host       = each.value.host
  name       = each.key
  image      = ondol_golden_image.base.path
  memory_mib = 256
  seed = {
    user            = "ops"
    authorized_keys = [file("${path.module}/id_ed25519.pub")]
  }
}

resource "ondol_netplan" "vm" {
  for_each           = local.vms
  host               = each.value.host
  vm                 = ondol_vm.vm[each.key].id
  first_boot_address = ondol_vm.vm[each.key].first_boot_address
  hostname           = each.key
  ethernets = {
    enp0s3 = {
      addresses   = ["${each.value.address}/24"]
      gateway4    = "192.168.10.1"
      nameservers = { addresses = ["192.168.10.12"], search = ["infra.internal"] }
    }
  }
  ssh = {
    user             = var.user
    private_key_file = "${path.module}/id_ed25519"
    host_key         = ondol_vm.vm[each.key].ssh_host_key
  }
  confirm_timeout_seconds = 20
}

resource "ondol_ansible_inventory" "site" {
  path = "${path.module}/inventory/hosts.yml"
  hosts = {
    for name, vm in local.vms : name => {
      address   = ondol_netplan.vm[name].address
      groups    = ["web"]
      variables = { host = vm.host, number = 5 }
      host_key  = ondol_vm.vm[name].ssh_host_key
    }
  }
  ssh = {
    user             = "ops"
    private_key_file = "${path.module}/id_ed25519"
    known_hosts_path = "${path.module}/inventory/known_hosts"
  }
}
