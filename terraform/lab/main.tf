# The site on the lab engine: every host of the topology is a group of containers on this machine.

terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
  backend "local" {}
}

locals {
  topology = provider::ondol::topology(file(var.topology))
  network  = local.topology.network
}

provider "ondol" {
  hosts = { for host, _ in local.topology.hosts : host => { engine = "lab" } }
  lab = {
    name     = var.lab
    gateways = ["${local.network.gateway}/${local.network.prefix}"]
  }
}

resource "ondol_golden_image" "base" {
  suite = var.suite
}

module "site" {
  source = "../modules/site"

  topology         = local.topology
  image            = ondol_golden_image.base.path
  authorized_keys  = [trimspace(file("${var.site_dir}/id_ed25519.pub"))]
  private_key_file = "${var.site_dir}/id_ed25519"
  directory        = var.site_dir
  proxy_command    = "ondol-lab --lab ${var.lab} proxy %h %p"
}
