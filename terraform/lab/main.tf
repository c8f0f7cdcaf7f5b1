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

module "packages" {
  source = "../modules/packages"

  path     = var.packages
  topology = local.topology
  skip     = var.skip
}

# Said at every plan and apply: what is left out is not forgotten.
check "nothing_is_left_out" {
  assert {
    condition     = length(module.packages.skipped) == 0
    error_message = "SKIPPED: ${join(", ", module.packages.skipped)}. The machines are made and stay without, because `skip` says so."
  }
}

# Mirror first: the image is built from it, and the machines have no other source.
locals {
  # The machine that serves the mirror, as http and, to itself, as a folder.
  mirror_vm     = one([for name, vm in local.topology.vms : name if contains(vm.groups, "mirror")])
  mirror_url    = "http://${local.topology.vms[local.mirror_vm].address}"
  mirror_folder = "/srv/mirror"
  mirror_transport = {
    for name in concat(["site"], keys(module.packages.suites)) : name => var.mirror_transport == null ? null : {
      mode         = var.mirror_transport.mode
      archive      = "${var.mirror_transport.directory}/${name}.tar"
      keyring_file = var.mirror_transport.mode == "import_archive" ? "${var.mirror_transport.directory}/site.asc" : null
    }
  }
}

resource "ondol_apt_mirror" "site" {
  name       = "site"
  path       = var.mirror_dir
  suite      = var.suite
  packages   = setunion(provider::ondol::base_packages("debian"), module.packages.site)
  essential  = true
  priorities = ["required"]
  base_url   = local.mirror_url
  pin        = lookup(var.mirror_pin, "site", null)
  transport  = local.mirror_transport["site"]
}

resource "ondol_golden_image" "base" {
  suite         = var.suite
  packages      = module.packages.topics.golden_image
  apt_sources   = ondol_apt_mirror.site.local_sources
  image_sources = ondol_apt_mirror.site.sources
}

# What the site's suite does not have comes from another one of the same archive: a mirror with what those machines need and no more,
# and an image of that suite, because a machine of two suites is one that nobody else has.
resource "ondol_apt_mirror" "suite" {
  for_each = module.packages.suites

  name         = each.key
  path         = var.mirror_dir
  suite        = each.key
  beside_suite = var.suite
  # A frozen archive's unstable suite is older than its own promise; its signature is verified all the same.
  check_valid_until = false
  packages          = setunion(provider::ondol::base_packages("debian"), module.packages.topics.golden_image, each.value)
  essential         = true
  priorities        = ["required"]
  base_url          = local.mirror_url
  pin               = lookup(var.mirror_pin, each.key, null)
  transport         = local.mirror_transport[each.key]

  lifecycle {
    precondition {
      condition     = length(module.packages.unknown) == 0
      error_message = "skip names ${join(", ", module.packages.unknown)}, which is no topic under `suites` in ${var.packages}."
    }
  }
}

resource "ondol_golden_image" "suite" {
  for_each = ondol_apt_mirror.suite

  suite         = each.key
  packages      = module.packages.topics.golden_image
  apt_sources   = each.value.local_sources
  image_sources = each.value.sources
}

module "site" {
  source = "../modules/site"

  topology         = local.topology
  image            = ondol_golden_image.base.path
  images           = { for name, suite in module.packages.suite_by_vm : name => ondol_golden_image.suite[suite].path }
  authorized_keys  = [trimspace(file("${var.site_dir}/id_ed25519.pub"))]
  private_key_file = "${var.site_dir}/id_ed25519"
  directory        = var.site_dir
  proxy_command    = "ondol-lab --lab ${var.lab} proxy %h %p"

  shared_folders = {
    (local.mirror_vm) = { mirror = { host_path = var.mirror_dir, guest_path = local.mirror_folder, read_only = true } }
  }
  variables = {
    site_packages = module.packages.topics
    site_skipped  = module.packages.skipped
    site_suite    = var.suite
    mirror_folder = local.mirror_folder
    # Once for the site and not once for each machine: the site's key is in it.
    apt_sources = { ondol = "{{ site_sources[packages_from] }}" }
    site_sources = merge(
      { for suite, mirror in ondol_apt_mirror.suite : suite => mirror.sources },
      {
        (var.suite) = ondol_apt_mirror.site.sources
        folder      = replace(ondol_apt_mirror.site.local_sources, "file:${var.mirror_dir}", "file:${local.mirror_folder}")
      },
    )
    # Where the site's passwords are: one file each, made by the first play that needs it.
    site_secrets = "${var.site_dir}/secrets"
  }
  host_variables = {
    for name, vm in local.topology.vms : name => {
      suite = lookup(module.packages.suite_by_vm, name, var.suite)
      # The mirror's machine sees the folder itself, and needs nobody to serve it.
      packages_from = name == local.mirror_vm ? "folder" : lookup(module.packages.suite_by_vm, name, var.suite)
    }
  }
}
