# The end of a machine's first start, as SYSTEM: what Windows Setup does not do itself, and the report that the machine is ready.
# $customData, $admin and $winrm are set above.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$platform = 'http://168.63.129.16'
$mark = 'lazuli-winrm'
$policies = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'

function Send-Health($state, $details) {
    $goal = [xml](Invoke-WebRequest -UseBasicParsing -Uri "$platform/machine/?comp=goalstate" `
        -Headers @{ 'x-ms-version' = '2012-11-30' }).Content
    $container = $goal.GoalState.Container
    $body = '<?xml version="1.0" encoding="utf-8"?><Health><GoalStateIncarnation>' + $goal.GoalState.Incarnation +
        '</GoalStateIncarnation><Container><ContainerId>' + $container.ContainerId + '</ContainerId><RoleInstanceList><Role>' +
        '<InstanceId>' + [Security.SecurityElement]::Escape($container.RoleInstanceList.RoleInstance.InstanceId) + '</InstanceId>' +
        '<Health><State>' + $state + '</State>' + $details + '</Health></Role></RoleInstanceList></Container></Health>'
    [void](Invoke-WebRequest -UseBasicParsing -Method Post -Uri "$platform/machine?comp=health" -ContentType 'text/xml' `
        -Headers @{ 'x-ms-version' = '2012-11-30' } -Body ([Text.Encoding]::UTF8.GetBytes($body)))
}

# As an agent reports itself; the certificate lets the caller know the listener.
function Send-Status($certificate) {
    $os = Get-CimInstance Win32_OperatingSystem
    $report = @{
        version = '1.1'
        aggregateStatus = @{ guestAgentStatus = @{
            version = 'lazuli'; status = 'Ready'; formattedMessage = @{ lang = 'en-US'; message = 'The machine is provisioned.' } } }
        guestOSInfo = @{ computerName = $env:COMPUTERNAME; osName = $os.Caption; osVersion = $os.Version }
        winrmCertificate = $certificate
    } | ConvertTo-Json -Depth 8 -Compress
    $body = @{ content = [Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($report)) } | ConvertTo-Json -Compress
    [void](Invoke-WebRequest -UseBasicParsing -Method Put -Uri "${platform}:32526/status" -ContentType 'application/json' -Body $body)
}

function New-Listener {
    $certificate = New-SelfSignedCertificate -DnsName $env:COMPUTERNAME -CertStoreLocation Cert:\LocalMachine\My
    $certificate.FriendlyName = $mark
    Set-Service WinRM -StartupType Automatic
    Start-Service WinRM
    Get-ChildItem WSMan:\localhost\Listener | Where-Object Keys -contains 'Transport=HTTPS' | Remove-Item -Recurse -Force
    [void](New-Item WSMan:\localhost\Listener -Transport HTTPS -Address * -CertificateThumbPrint $certificate.Thumbprint -Force)
    Set-Item WSMan:\localhost\Service\Auth\Basic $true
    # Otherwise an administrator who comes over the network has no rights.
    [void](New-ItemProperty $policies -Name LocalAccountTokenFilterPolicy -Value 1 -PropertyType DWord -Force)
    [void](New-NetFirewallRule -Name $mark -DisplayName $mark -Direction Inbound -Protocol TCP -LocalPort 5986 -Action Allow)
    [Convert]::ToBase64String($certificate.RawData)
}

try {
    if ($customData) {
        $folder = "$env:SystemDrive\AzureData"
        [void][IO.Directory]::CreateDirectory($folder)
        [IO.File]::WriteAllBytes("$folder\CustomData.bin", [Convert]::FromBase64String($customData))
    }
    # What the build of the image left to be done; $admin stays.
    $clean = "$env:SystemRoot\Setup\Scripts\clean.ps1"
    if (Test-Path $clean) { & $clean }
    $certificate = $null
    if ($winrm) { $certificate = New-Listener }
    Send-Status $certificate
    Send-Health 'Ready' ''
} catch {
    $why = [Security.SecurityElement]::Escape($_.Exception.Message)
    Send-Health 'NotReady' "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>$why</Description></Details>"
} finally {
    Remove-Item "$env:SystemRoot\Setup\Scripts\*" -Force -ErrorAction SilentlyContinue
}
