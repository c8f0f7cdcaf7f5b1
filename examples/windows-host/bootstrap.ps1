# The one script for a bare Windows PC, run once by a person as administrator:
#   powershell -ExecutionPolicy Bypass -File bootstrap.ps1 -PublicKey 'ssh-ed25519 AAAA... me'
# Afterwards SSH reaches the PC with that key, and `ondol_host` does the rest. Running it again changes nothing.
#Requires -RunAsAdministrator
param([Parameter(Mandatory)][string]$PublicKey)
$ErrorActionPreference = 'Stop'

# The SSH server, now and at each start. Its installer opens the firewall for private networks.
$server = Get-WindowsCapability -Online -Name 'OpenSSH.Server*' | Select-Object -First 1
if ($server.State -ne 'Installed') { $null = Add-WindowsCapability -Online -Name $server.Name }
Set-Service sshd -StartupType Automatic
Start-Service sshd

# Keys of administrators are in one file, which nobody else may write. S-1-5-32-544 and S-1-5-18 are Administrators and SYSTEM in every language.
$keys = Join-Path $env:ProgramData 'ssh\administrators_authorized_keys'
$known = if (Test-Path $keys) { @(Get-Content $keys) } else { @() }
if ($known -notcontains $PublicKey) { Add-Content -Path $keys -Value $PublicKey -Encoding Ascii }
$null = icacls.exe $keys /inheritance:r /grant '*S-1-5-32-544:F' /grant '*S-1-5-18:F'

# VMs do not run on a PC that sleeps.
powercfg.exe /change standby-timeout-ac 0
powercfg.exe /change hibernate-timeout-ac 0

# What the provider's `hosts` needs of this PC: pin the key, and choose one of the adapters.
'host_key = ' + (((Get-Content (Join-Path $env:ProgramData 'ssh\ssh_host_ed25519_key.pub')) -split ' ')[0..1] -join ' ')
Get-NetAdapter -Physical | Where-Object Status -eq 'Up' | ForEach-Object { 'bridged_adapter = ' + $_.InterfaceDescription }
