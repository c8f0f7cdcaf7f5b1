output "inventory" {
  description = "The path of the inventory that Ansible reads."
  value       = ondol_ansible_inventory.this.path
}

output "addresses" {
  description = "Each VM's address, confirmed."
  value       = { for name, netplan in ondol_netplan.this : name => netplan.address }
}
