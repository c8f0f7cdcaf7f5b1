# Hosts, VMs and addresses from a file, checked.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

locals {
  topology = provider::ondol::topology(file("${path.module}/topology.yaml"))
}

output "addresses" {
  value = { for name, vm in local.topology.vms : name => vm.address }
}
