# What a host can carry.
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

data "ondol_host" "first" {
  name = "srv-01"
}

output "memory_mib" {
  value = data.ondol_host.first.memory_mib
}
