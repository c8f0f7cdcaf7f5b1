# What a mirror must hold so that a golden image can be built from it.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

output "image_needs" {
  value = provider::ondol::base_packages("debian")
}
