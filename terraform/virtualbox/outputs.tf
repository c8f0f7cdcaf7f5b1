output "inventory" {
  description = "The inventory for ansible-playbook -i."
  value       = module.site.inventory
}

output "image" {
  description = "What the machines' disks start from, on the machine that runs Terraform."
  value       = local.image
}
