output "inventory" {
  value = module.site.inventory
}

output "addresses" {
  value = module.site.addresses
}
