# A host made ready for VirtualBox. Its kernel driver is left to whoever looks after the kernel.
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

resource "ondol_host" "first" {
  host          = "srv-01"
  kernel_driver = false
}

output "virtualbox_version" {
  value = ondol_host.first.virtualbox_version
}
