# Every VM of every host.
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

data "ondol_vms" "all" {}

output "names" {
  value = keys(data.ondol_vms.all.vms)
}
