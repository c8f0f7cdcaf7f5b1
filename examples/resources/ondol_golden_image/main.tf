# A Debian image with nginx and an account, built once and kept in /var/cache/ondol.
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

# Set `checksum` to this to be told when the same recipe would give other packages.
output "content_digest" {
  value = ondol_golden_image.web.content_digest
}
