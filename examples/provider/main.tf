# Two hosts in the default lab, and one in a lab of its own.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

provider "ondol" {
  hosts = {
    srv-01 = { engine = "lab" }
    srv-02 = { engine = "lab" }
    srv-03 = { engine = "lab", lab = { name = "branch", gateways = ["192.168.20.1/24"] } }
  }
}
