# A file by its digest, published where a web server shows it. Here it comes from this machine; https works alike.
terraform {
  required_version = ">= 1.11"
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

provider "ondol" {
  hosts = {
    srv-01 = { engine = "lab" }
  }
}

resource "ondol_file_mirror" "site" {
  name     = "site"
  path     = abspath("mirror")
  base_url = "http://mirror.example"

  files = {
    "terraform/main.tf" = {
      urls   = ["file:${abspath("main.tf")}"]
      sha256 = filesha256("main.tf")
    }
  }
}

output "urls" {
  value = ondol_file_mirror.site.urls
}
