# Runs a script file by the task scheduler, as SYSTEM or as a user with the highest rights, shows what it prints while it runs, and ends
# as it ends. A session of WinRM may not do all that: it cannot install updates or use the network in its user's name. The password is
# given by the caller inside its process, so that it is in no command line and in no file.
param([string]$Path, [string]$User, [string]$Password)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$name = 'lazuli-' + [Guid]::NewGuid().ToString('N')
$log = "$env:SystemRoot\Temp\$name.log"
$script = @"
`$ProgressPreference = 'SilentlyContinue'
`$global:LASTEXITCODE = 0
try { & '$Path' } catch { [Console]::Error.WriteLine((`$_ | Out-String)); `$global:LASTEXITCODE = 1 }
exit `$LASTEXITCODE
"@
$encoded = [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($script))
$options = '-NoProfile -NonInteractive -ExecutionPolicy Bypass -OutputFormat Text'
$line = "/c chcp 65001 > nul & powershell.exe $options -EncodedCommand $encoded > `"$log`" 2>&1"
$action = New-ScheduledTaskAction -Execute "$env:SystemRoot\System32\cmd.exe" -Argument $line
$settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -Priority 4

if ($User -eq 'SYSTEM') {
    $principal = New-ScheduledTaskPrincipal -UserId SYSTEM -LogonType ServiceAccount -RunLevel Highest
    [void](Register-ScheduledTask -TaskName $name -Action $action -Settings $settings -Principal $principal)
} else {
    [void](Register-ScheduledTask -TaskName $name -Action $action -Settings $settings -User $User -Password $Password `
        -RunLevel Highest)
}

$out = [Console]::OpenStandardOutput()
$shown = 0
$buffer = New-Object byte[] 65536
function Show-News {
    if (-not (Test-Path -LiteralPath $log)) { return }
    $file = [IO.File]::Open($log, 'Open', 'Read', 'ReadWrite')
    try {
        [void]$file.Seek($script:shown, 'Begin')
        while (($count = $file.Read($buffer, 0, $buffer.Length)) -gt 0) {
            $out.Write($buffer, 0, $count)
            $script:shown += $count
        }
        $out.Flush()
    } finally { $file.Dispose() }
}

try {
    Start-ScheduledTask -TaskName $name
    # SCHED_S_TASK_RUNNING, SCHED_S_TASK_HAS_NOT_RUN, SCHED_S_TASK_QUEUED
    do {
        Start-Sleep -Milliseconds 500
        Show-News
        $result = (Get-ScheduledTaskInfo -TaskName $name).LastTaskResult
    } while ($result -in 267009, 267011, 267045)
    Show-News
} finally {
    Unregister-ScheduledTask -TaskName $name -Confirm:$false -ErrorAction SilentlyContinue
    Remove-Item -LiteralPath $log, $Path, $PSCommandPath -Force -ErrorAction SilentlyContinue
}
exit [BitConverter]::ToInt32([BitConverter]::GetBytes([uint32]$result), 0)
