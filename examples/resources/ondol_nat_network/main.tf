# A network that the VMs of a host share, with a port of the host that leads to one of them.
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

resource "ondol_nat_network" "site" {
  host    = "srv-01"
  name    = "site"
  network = "10.0.5.0/24"
  port_forwards = {
    ssh = { host_address = "127.0.0.1", host_port = 2222, guest_address = "10.0.5.10", guest_port = 22 }
  }
}
