# A mirror of this machine's own apt sources: one package and all that it needs, signed with the site's key. In production `path` is a
# directory that a web server shows, such as /srv/mirror, and the key is kept where it is by default, in /var/lib/ondol/keys.
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

resource "ondol_apt_mirror" "site" {
  name          = "site"
  path          = abspath("mirror")
  suite         = "bookworm"
  packages      = ["hello"]
  base_url      = "http://mirror.example"
  site_key_file = abspath("site.key")

  # Another value asks upstream for what is new, and the plan shows which packages change.
  triggers = { month = "2026-11" }
}

# For a machine's /etc/apt/sources.list.d/site.sources.
output "sources" {
  value = ondol_apt_mirror.site.sources
}

# What to go back to: set `pin` to one of these.
output "snapshots" {
  value = ondol_apt_mirror.site.snapshots
}
