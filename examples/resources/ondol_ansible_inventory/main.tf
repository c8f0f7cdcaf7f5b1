# An inventory with one host, and the known_hosts file that pins it.
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

resource "ondol_ansible_inventory" "site" {
  path = "${path.module}/inventory/hosts.yml"
  hosts = {
    web-01 = {
      address   = "192.168.10.29"
      groups    = ["web"]
      variables = { app = "Web Server 01" }
      host_key  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
    }
  }
  variables = { domain = "infra.internal" }
  ssh = {
    user             = "ops"
    known_hosts_path = "${path.module}/inventory/known_hosts"
  }
}
