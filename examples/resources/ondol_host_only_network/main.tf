# A network between a host and its VMs, with addresses for those that ask.
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

resource "ondol_host_only_network" "lan" {
  host    = "srv-01"
  address = "192.168.56.1/24"
  dhcp = {
    lower_address = "192.168.56.10"
    upper_address = "192.168.56.99"
  }
}

output "adapter" {
  value = ondol_host_only_network.lan.name
}
