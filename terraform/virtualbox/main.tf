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
  # What the mirror holds for any image: base_packages, and what makes a disk of one that boots (`PACKAGES` in provider/image/src/disk/boot.rs).
  image_packages = setunion(provider::ondol::base_packages("debian"), module.packages.topics.golden_image, [
    "cloud-guest-utils", "cloud-init", "dosfstools", "e2fsprogs", "fdisk", "grub-efi-amd64-bin", "grub-efi-amd64-signed",
    "grub-pc-bin", "grub2-common", "initramfs-tools", "linux-image-amd64", "shim-signed", "zstd",
  ])
  # A topic that another suite has needs an image of that suite: one that is given, or one that is made from this site's mirror.
  unmade = [
    for topic, suite in try(yamldecode(file(var.packages)).suites, {}) : topic
    if !contains(keys(var.images), suite) && !(local.mirrored && var.image == null)
  ]
}

module "packages" {
  source = "../modules/packages"

  path     = var.packages
  topology = local.topology
  skip     = setunion(var.skip, local.unmade)
}

# Said at every plan and apply: what is left out is not forgotten.
check "nothing_is_left_out" {
  assert {
    condition     = length(module.packages.skipped) == 0
    error_message = "SKIPPED: ${join(", ", module.packages.skipped)}. The machines are made and stay without: `skip` says so, or there is no image of their suite (see `images`)."
  }
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
  packages   = setunion(local.image_packages, module.packages.site)
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

# What the site's suite does not have comes from another one of the same archive: a mirror with what those machines need and no more,
# and an image of that suite.
resource "ondol_apt_mirror" "suite" {
  for_each = local.mirrored ? module.packages.suites : {}

  name         = each.key
  path         = var.mirror_dir
  suite        = each.key
  beside_suite = var.suite
  # A frozen archive's unstable suite is older than its own promise; its signature is verified all the same.
  check_valid_until = false
  packages          = setunion(local.image_packages, each.value)
  essential         = true
  priorities        = ["required"]
  base_url          = var.mirror_url
}

resource "ondol_golden_image" "suite" {
  for_each = { for suite, mirror in ondol_apt_mirror.suite : suite => mirror if !contains(keys(var.images), suite) }

  suite         = each.key
  packages      = module.packages.topics.golden_image
  formats       = ["ova"]
  apt_sources   = each.value.local_sources
  image_sources = each.value.sources
}

module "site" {
  source = "../modules/site"

  topology = local.topology
  image    = local.image
  images = {
    for name, suite in module.packages.suite_by_vm : name => lookup(var.images, suite, one([for image, it in ondol_golden_image.suite : it.ova_path if image == suite]))
  }
  linked_clones    = var.linked_clones
  power            = var.power
  seed_addresses   = true
  authorized_keys  = [trimspace(file("${var.site_dir}/id_ed25519.pub"))]
  private_key_file = "${var.site_dir}/id_ed25519"
  directory        = var.site_dir

  variables = {
    site_packages = module.packages.topics
    site_skipped  = module.packages.skipped
    site_suite    = var.suite
  }
  host_variables = {
    for name, _ in local.topology.vms : name => merge(
      { suite = lookup(module.packages.suite_by_vm, name, var.suite) },
      local.mirrored ? { apt_sources = { ondol = try(ondol_apt_mirror.suite[module.packages.suite_by_vm[name]], ondol_apt_mirror.site[0]).sources } } : {},
    )
  }
}
