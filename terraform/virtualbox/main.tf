# The site on VirtualBox: the topology's VMs on a room of PCs that SSH reaches. Where a host is and how to log in is in var.hosts;
# everything else is what the lab has too. State is kept in this directory unless a backend is added.

terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

locals {
  topology = provider::ondol::topology(file(var.topology))
  image    = var.image != null ? var.image : one(ondol_golden_image.base[*].ova_path)
  # Only a mirror that the machines reach can be their source.
  mirrored = var.mirror_url != null
}

# Appliances of a second suite are not made here yet, so what only that one has is left out, and stage 7 says so.
module "packages" {
  source = "../modules/packages"

  path     = var.packages
  topology = local.topology
  skip     = ["mysql"]
}

provider "ondol" {
  hosts = {
    for host, _ in local.topology.hosts : host => {
      engine = "virtualbox"
      ssh = {
        address          = var.hosts[host].address
        port             = var.hosts[host].port
        user             = coalesce(var.hosts[host].user, var.ssh.user)
        host_key         = var.hosts[host].host_key
        known_hosts_file = var.hosts[host].host_key == null ? var.ssh.known_hosts_file : null
        private_key_file = var.hosts[host].password == null ? var.ssh.private_key_file : null
        password         = var.hosts[host].password
      }
      virtualbox = {
        bridged_adapter = var.hosts[host].bridged_adapter
        vboxmanage      = var.hosts[host].vboxmanage
      }
    }
  }
}

# Mirror first: published on the machine that runs Terraform, which serves it to the machines (its URL is var.mirror_url).
resource "ondol_apt_mirror" "site" {
  count = local.mirrored ? 1 : 0

  name       = "site"
  path       = var.mirror_dir
  suite      = var.suite
  packages   = setunion(provider::ondol::base_packages("debian"), module.packages.site)
  essential  = true
  priorities = ["required"]
  base_url   = var.mirror_url
}

resource "ondol_golden_image" "base" {
  count = var.image == null ? 1 : 0

  suite         = var.suite
  packages      = module.packages.topics.golden_image
  formats       = ["ova"]
  apt_sources   = one(ondol_apt_mirror.site[*].local_sources)
  image_sources = one(ondol_apt_mirror.site[*].sources)
}

module "site" {
  source = "../modules/site"

  topology         = local.topology
  image            = local.image
  linked_clones    = var.linked_clones
  power            = var.power
  seed_addresses   = true
  authorized_keys  = [trimspace(file("${var.site_dir}/id_ed25519.pub"))]
  private_key_file = "${var.site_dir}/id_ed25519"
  directory        = var.site_dir

  variables = { site_packages = module.packages.topics, site_skipped = module.packages.skipped }
  host_variables = local.mirrored ? {
    for name, _ in local.topology.vms : name => { apt_sources = { ondol = ondol_apt_mirror.site[0].sources } }
  } : {}
}
