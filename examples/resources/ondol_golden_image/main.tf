# Debian images, built once and kept in /var/cache/ondol: one with nginx and an account for the lab, one that boots for VirtualBox.
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

resource "ondol_golden_image" "web" {
  suite    = "bookworm"
  packages = ["nginx-light"]
  users    = [{ name = "deploy", sudo = true }]
}

# A bootable disk, as an appliance that VirtualBox imports.
resource "ondol_golden_image" "appliance" {
  suite   = "bookworm"
  formats = ["ova"]
}

output "appliance" {
  value = {
    path   = ondol_golden_image.appliance.ova_path
    sha256 = ondol_golden_image.appliance.ova_sha256
  }
}

# Set `checksum` to this to be told when the same recipe would give other packages.
output "content_digest" {
  value = ondol_golden_image.web.content_digest
}
