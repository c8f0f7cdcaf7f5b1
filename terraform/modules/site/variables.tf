variable "topology" {
  description = "The checked topology: what provider::ondol::topology makes of terraform/topology.yaml."
  type = object({
    network = object({ cidr = string, prefix = number, gateway = string, dns = list(string), domain = string })
    hosts   = map(list(string))
    vms = map(object({
      id         = string
      host       = string
      address    = string
      prefix     = number
      app        = string
      role       = string
      groups     = list(string)
      cpus       = number
      memory_mib = number
      disks      = map(object({ size_mib = number }))
      features   = object({ containers = bool, tun = bool, fuse = bool })
    }))
  })
}

variable "image" {
  description = "What each VM's system disk starts as: an ondol_golden_image's path."
  type        = string
}

variable "images" {
  description = "The same for single VMs that start as something else, by the VM's name. Which group needs which image is for the caller to say."
  type        = map(string)
  default     = {}
}

variable "linked_clones" {
  description = "Whether VMs share the image's blocks with the others of their host. The lab passes over it."
  type        = bool
  default     = false
}

variable "power" {
  description = "`running`, or `stopped` to make the VMs without starting them: nothing is confirmed about their network then."
  type        = string
  default     = "running"

  validation {
    condition     = contains(["running", "stopped"], var.power)
    error_message = "power is running or stopped."
  }
}

variable "seed_addresses" {
  description = "Whether VMs have their final addresses from their first boot on: where this machine is not on the VMs' own link, and so reaches no link-local address of theirs. A changed address then restarts the VM. The lab passes over it."
  type        = bool
  default     = false
}

variable "user" {
  description = "The login that each VM gets, with sudo."
  type        = string
  default     = "ondol"
}

variable "authorized_keys" {
  description = "The SSH public keys that may log in as `user`, in OpenSSH's format."
  type        = list(string)
}

variable "private_key_file" {
  description = "The private key that Terraform and Ansible log in with: a path on the machine that runs them."
  type        = string
}

variable "interface" {
  description = "The name of each VM's network interface. VirtualBox's first adapter is enp0s3."
  type        = string
  default     = "enp0s3"
}

variable "timezone" {
  description = "The machines' time zone, as in the tz database."
  type        = string
  default     = "Asia/Seoul"
}

variable "directory" {
  description = "Where inventory.yml and known_hosts are written."
  type        = string
}

variable "proxy_command" {
  description = "OpenSSH's ProxyCommand for reaching the VMs from this machine; null where they are on its network."
  type        = string
  default     = null
}

variable "shared_folders" {
  description = "Folders of the hosts that a VM sees, by the VM's name and a key of one's choice."
  type        = map(map(object({ host_path = string, guest_path = string, read_only = optional(bool, true) })))
  default     = {}
}

variable "variables" {
  description = "Further variables of all hosts in the inventory."
  type        = any
  default     = {}
}

variable "host_variables" {
  description = "Further variables of single hosts in the inventory, by the VM's name."
  type        = any
  default     = {}
}
