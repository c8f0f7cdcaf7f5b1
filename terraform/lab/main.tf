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

# Mirror first: the image is built from it, and the machines have no other source.
locals {
  packages = yamldecode(file(var.packages))
  # The machine that serves the mirror, as http and, to itself, as a folder.
  mirror_vm     = one([for name, vm in local.topology.vms : name if contains(vm.groups, "mirror")])
  mirror_url    = "http://${local.topology.vms[local.mirror_vm].address}"
  mirror_folder = "/srv/mirror"
}

resource "ondol_apt_mirror" "site" {
  name       = "site"
  path       = var.mirror_dir
  suite      = var.suite
  packages   = setunion(provider::ondol::base_packages("debian"), flatten(values(local.packages)))
  essential  = true
  priorities = ["required"]
  base_url   = local.mirror_url
}

resource "ondol_golden_image" "base" {
  suite         = var.suite
  packages      = local.packages.golden_image
  apt_sources   = ondol_apt_mirror.site.local_sources
  image_sources = ondol_apt_mirror.site.sources
}

module "site" {
  source = "../modules/site"

  topology         = local.topology
  image            = ondol_golden_image.base.path
  authorized_keys  = [trimspace(file("${var.site_dir}/id_ed25519.pub"))]
  private_key_file = "${var.site_dir}/id_ed25519"
  directory        = var.site_dir
  proxy_command    = "ondol-lab --lab ${var.lab} proxy %h %p"

  shared_folders = {
    (local.mirror_vm) = { mirror = { host_path = var.mirror_dir, guest_path = local.mirror_folder, read_only = true } }
  }
  variables = {
    site_packages = local.packages
    mirror_folder = local.mirror_folder
  }
  # The mirror's machine sees the folder itself, and needs nobody to serve it.
  host_variables = {
    for name, vm in local.topology.vms : name => {
      apt_sources = {
        ondol = name == local.mirror_vm ? replace(ondol_apt_mirror.site.local_sources, "file:${var.mirror_dir}", "file:${local.mirror_folder}") : ondol_apt_mirror.site.sources
      }
    }
  }
}
