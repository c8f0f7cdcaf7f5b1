# The machines of a topology on whatever engine the provider's hosts have: VMs, their names and addresses, and the inventory.

terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

locals {
  network = var.topology.network
  # One text for both users: Terraform brings the guest to it, the netplan task of stage 4 holds it there.
  ethernets = {
    for name, vm in var.topology.vms : name => {
      (var.interface) = {
        addresses   = ["${vm.address}/${vm.prefix}"]
        gateway4    = local.network.gateway
        nameservers = { addresses = local.network.dns, search = [local.network.domain] }
      }
    }
  }
}

resource "ondol_vm" "this" {
  for_each = var.topology.vms

  host       = each.value.host
  name       = each.key
  image      = lookup(var.images, each.key, var.image)
  cpus       = each.value.cpus
  memory_mib = each.value.memory_mib
  disks      = each.value.disks
  lab        = each.value.features
  wait_for   = "ssh"
  power      = var.power

  linked_clone = var.linked_clones

  shared_folders = lookup(var.shared_folders, each.key, null)

  network_interfaces = [{ name = var.interface }]
  seed = {
    user            = var.user
    authorized_keys = var.authorized_keys
    network = var.seed_addresses ? {
      addresses   = ["${each.value.address}/${each.value.prefix}"]
      gateway     = local.network.gateway
      nameservers = local.network.dns
    } : null
  }
}

# Holds a machine's name and address; changing either touches nothing but this resource and the inventory.
resource "ondol_netplan" "this" {
  for_each = var.power == "running" ? var.topology.vms : {}

  host               = each.value.host
  vm                 = ondol_vm.this[each.key].id
  first_boot_address = ondol_vm.this[each.key].first_boot_address
  hostname           = each.key
  ethernets          = local.ethernets[each.key]
  ssh = {
    user             = var.user
    private_key_file = var.private_key_file
    host_key         = ondol_vm.this[each.key].ssh_host_key
  }
}

resource "ondol_ansible_inventory" "this" {
  path = "${var.directory}/inventory.yml"

  hosts = {
    for name, vm in var.topology.vms : name => {
      address  = var.power == "running" ? ondol_netplan.this[name].address : vm.address
      host_key = ondol_vm.this[name].ssh_host_key
      groups   = vm.groups
      variables = merge({
        vm_id             = vm.id
        vm_host           = vm.host
        app               = vm.app
        role              = vm.role
        netplan_ethernets = local.ethernets[name]
      }, try(var.host_variables[name], {}))
    }
  }
  variables = merge({
    site_domain    = local.network.domain
    site_network   = local.network.cidr
    site_timezone  = var.timezone
    site_addresses = { for name, vm in var.topology.vms : name => vm.address }
    site_hosts = [
      for host, names in var.topology.hosts : {
        name = host
        vms = [
          for name in names : {
            name    = name
            address = var.topology.vms[name].address
            role    = var.topology.vms[name].role
            groups  = var.topology.vms[name].groups
          }
        ]
      }
    ]
  }, var.variables)
  ssh = {
    user             = var.user
    private_key_file = var.private_key_file
    known_hosts_path = "${var.directory}/known_hosts"
    proxy_command    = var.proxy_command
  }
}
