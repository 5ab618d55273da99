<#
Sets swarm up on Windows 10 (2004 or newer) and 11, inside WSL2.

Why not on Windows itself: hivemind and its libp2p daemon, which carry the network, are built for Linux and macOS, and peers use Unix sockets and fork. WSL2 is a
real Linux in which everything works as on a Linux machine, CUDA included; it is part of Windows.

    powershell -ExecutionPolicy Bypass -File scripts\setup.ps1 [-Distribution Ubuntu] [-Gpu] [-Port 31338]

-Port NUMBER also lets others reach a peer: WSL2 has an address of its own, so Windows hands that TCP port on (asks for administrator rights).
#>
param(
    [string]$Distribution = "Ubuntu",
    [switch]$Gpu,
    [int]$Port = 0
)
$ErrorActionPreference = "Stop"

function Fail([string]$Words) {
    Write-Host "setup: $Words" -ForegroundColor Red
    exit 2
}

if (-not (Get-Command wsl.exe -ErrorAction SilentlyContinue)) {
    Fail "this Windows has no WSL; update to Windows 10 version 2004 or newer, then run: wsl --install"
}
$env:WSL_UTF8 = "1"
$installed = @(wsl.exe --list --quiet 2>$null | ForEach-Object { $_.Trim() } | Where-Object { $_ })
if ($installed -notcontains $Distribution) {
    Write-Host "installing $Distribution for WSL2; Windows may ask to restart, and Ubuntu for a user name. Run this script again afterwards."
    wsl.exe --install --distribution $Distribution
    exit $LASTEXITCODE
}
wsl.exe --set-version $Distribution 2 2>$null | Out-Null

$checkout = (Resolve-Path (Join-Path $PSScriptRoot "..")).Path
$inside = (wsl.exe --distribution $Distribution -- wslpath -a ($checkout -replace "\\", "/")).Trim()
if (-not $inside) { Fail "$Distribution does not see $checkout; keep the checkout on a local drive" }

Write-Host "installing what Python needs in $Distribution (asks for your password there)"
wsl.exe --distribution $Distribution -- sudo apt-get update -qq
wsl.exe --distribution $Distribution -- sudo apt-get install -y -qq python3 python3-venv g++ git
if ($LASTEXITCODE -ne 0) { Fail "apt-get failed in $Distribution; see above" }

# The environment lies in Linux's own file system: on a Windows drive it would be several times slower.
$options = @("--into", "`$HOME/swarm-venv")
if ($Gpu) { $options += "--gpu" }
wsl.exe --distribution $Distribution -- sh -c "tr -d '\r' < '$inside/scripts/setup.sh' > /tmp/swarm-setup.sh && mkdir -p `$HOME/swarm-setup/scripts && cp /tmp/swarm-setup.sh `$HOME/swarm-setup/scripts/setup.sh && cp '$inside/constraints.txt' `$HOME/swarm-setup/ && sh `$HOME/swarm-setup/scripts/setup.sh --from '$inside' $($options -join ' ')"
if ($LASTEXITCODE -ne 0) { Fail "the set-up inside $Distribution failed; see above" }

if ($Port -gt 0) {
    $address = (wsl.exe --distribution $Distribution -- hostname -I).Trim().Split(" ")[0]
    $commands = "netsh interface portproxy add v4tov4 listenport=$Port listenaddress=0.0.0.0 connectport=$Port connectaddress=$address; " +
        "New-NetFirewallRule -DisplayName 'swarm $Port' -Direction Inbound -Protocol TCP -LocalPort $Port -Action Allow"
    Start-Process powershell -Verb RunAs -Wait -ArgumentList "-NoProfile", "-Command", $commands
    Write-Host "port $Port of Windows is handed on to $Distribution at $address. WSL2's address changes when Windows restarts: run this again then."
    Write-Host "serve with: --port $Port --announce /ip4/YOUR-ADDRESS/tcp/$Port"
}
Write-Host "ready. Open a shell with: wsl -d $Distribution   and there: . ~/swarm-venv/bin/activate"
