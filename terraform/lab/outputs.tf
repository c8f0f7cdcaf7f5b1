output "inventory" {
  description = "The inventory for ansible-playbook -i."
  value       = module.site.inventory
}
