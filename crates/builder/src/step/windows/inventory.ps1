# What is installed: the system, programs and hotfixes, a line each, parts apart by tabs.
$ProgressPreference = 'SilentlyContinue'
[Console]::OutputEncoding = New-Object Text.UTF8Encoding $false
$os = Get-CimInstance Win32_OperatingSystem
"os`t$($os.Caption)`t$($os.Version)"
$keys = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\*',
    'HKLM:\SOFTWARE\WOW6432Node\Microsoft\Windows\CurrentVersion\Uninstall\*'
Get-ItemProperty $keys -ErrorAction SilentlyContinue | Where-Object DisplayName |
    ForEach-Object { "program`t$($_.DisplayName)`t$($_.DisplayVersion)" }
Get-CimInstance Win32_QuickFixEngineering | ForEach-Object { "hotfix`t$($_.HotFixID)`t" }
