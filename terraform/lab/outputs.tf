output "inventory" {
  description = "The inventory for ansible-playbook -i."
  value       = module.site.inventory
}

output "mirror_snapshots" {
  description = "The snapshots that each mirror keeps, oldest first: what mirror_pin may name."
  value       = merge({ site = ondol_apt_mirror.site.snapshots }, { for suite, mirror in ondol_apt_mirror.suite : suite => mirror.snapshots })
}

output "mirror_digest" {
  description = "What each mirror holds, as a digest: the same wherever it holds the same."
  value       = merge({ site = ondol_apt_mirror.site.content_digest }, { for suite, mirror in ondol_apt_mirror.suite : suite => mirror.content_digest })
}
