output "topics" {
  description = "Packages by topic."
  value       = local.topics
}

output "site" {
  description = "Packages of the topics that the site's own suite has."
  value       = distinct(flatten([for topic, names in local.topics : names if !contains(keys(local.apart), topic)]))
}

output "suites" {
  description = "Packages that are taken from another suite, by that suite. Without those that nothing of the topology needs."
  value = {
    for suite in distinct(values(local.used)) : suite => distinct(flatten([for topic, of in local.used : local.topics[topic] if of == suite]))
  }
}

output "suite_by_vm" {
  description = "The suite of each VM that is not of the site's own: a VM in the group of a topic is of that topic's suite, and of one only."
  value = {
    for name, vm in var.topology.vms : name => one(distinct([for topic, suite in local.used : suite if contains(vm.groups, topic)]))
    if anytrue([for topic, _ in local.used : contains(vm.groups, topic)])
  }
}

output "skipped" {
  description = "Topics that are left out although there are machines for them."
  value = [
    for topic, _ in local.apart : topic
    if contains(var.skip, topic) && anytrue([for vm in var.topology.vms : contains(vm.groups, topic)])
  ]
}

output "unknown" {
  description = "What `skip` names and the list has no topic for."
  value       = setsubtract(var.skip, keys(local.apart))
}
