# What terraform/packages.yaml says, for a topology: which packages the site's own suite is to have, and which topics, and so which
# machines, are another suite's.

terraform {
  required_version = ">= 1.11"
}

locals {
  listed = yamldecode(file(var.path))
  # `suites` says where topics come from and is none itself.
  topics = { for topic, names in local.listed : topic => names if topic != "suites" }
  apart  = try(local.listed.suites, {})
  # A suite that no machine needs is not worth its mirror and its image.
  used = {
    for topic, suite in local.apart : topic => suite
    if !contains(var.skip, topic) && anytrue([for vm in var.topology.vms : contains(vm.groups, topic)])
  }
}
