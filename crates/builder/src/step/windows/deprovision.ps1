# Takes out of the machine what makes it this one: the script that the image's author left ($override), or Sysprep. $user is the build's.
$ProgressPreference = 'SilentlyContinue'
if (Test-Path -LiteralPath $override) {
    "runs $override"
    $global:LASTEXITCODE = 0
    try { & $override }
    catch {
        [Console]::Error.WriteLine(($_ | Out-String))
        $global:LASTEXITCODE = 1
    } finally { Remove-Item -LiteralPath $override -Force -ErrorAction SilentlyContinue }
    exit $LASTEXITCODE
}

# What let the build in goes when a machine of the image sets itself up, before anybody can use it.
$scripts = "$env:SystemRoot\Setup\Scripts"
[void][IO.Directory]::CreateDirectory($scripts)
@"
`$ErrorActionPreference = 'Continue'
Get-ChildItem WSMan:\localhost\Listener | Where-Object Keys -contains 'Transport=HTTPS' | Remove-Item -Recurse -Force
Set-Item WSMan:\localhost\Service\Auth\Basic `$false
Get-ChildItem Cert:\LocalMachine\My | Where-Object FriendlyName -eq 'lazuli-winrm' | Remove-Item -Force
Remove-NetFirewallRule -Name lazuli-winrm
Remove-ItemProperty HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System -Name LocalAccountTokenFilterPolicy
if ('$user' -ne `$admin) { Remove-LocalUser '$user' }
Remove-Item "`$env:SystemRoot\Setup\Scripts\*" -Force
"@ | Set-Content "$scripts\clean.ps1" -Encoding UTF8
'@powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "%WINDIR%\Setup\Scripts\clean.ps1"' |
    Set-Content "$scripts\SetupComplete.cmd" -Encoding ASCII

# Sysprep must not run while Azure's agent sets itself up, where there is one.
$end = (Get-Date).AddMinutes(10)
foreach ($name in 'RdAgent', 'WindowsAzureGuestAgent') {
    while (($service = Get-Service $name -ErrorAction SilentlyContinue) -and $service.Status -ne 'Running') {
        if ((Get-Date) -gt $end) {
            [Console]::Error.WriteLine("the service $name is not running after 10 minutes")
            exit 1
        }
        "waits for the service $name"
        Start-Sleep -Seconds 5
    }
}

$sysprep = "$env:SystemRoot\System32\Sysprep"
Remove-Item -LiteralPath "$sysprep\unattend.xml" -Force -ErrorAction SilentlyContinue
'runs Sysprep /oobe /generalize /quiet /quit /mode:vm'
& "$sysprep\Sysprep.exe" /oobe /generalize /quiet /quit /mode:vm
$end = (Get-Date).AddMinutes(30)
$last = ''
while ($true) {
    $state = (Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State').ImageState
    if ($state -ne $last) { $state }
    $last = $state
    if ($state -eq 'IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE') { exit 0 }
    if ((Get-Date) -gt $end) {
        [Console]::Error.WriteLine("Sysprep has not generalized the machine after 30 minutes; its log ends with:")
        Get-Content "$sysprep\Panther\setupact.log" -Tail 20 | ForEach-Object { [Console]::Error.WriteLine($_) }
        exit 1
    }
    Start-Sleep -Seconds 5
}
