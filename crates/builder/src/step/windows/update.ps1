# Looks for updates of Windows ($criteria, $filters, $limit), installs what it finds, and says by its exit code what is to be done:
#   0    nothing is left
#   101  a restart, then another look
#   102  another look
#   103  a restart, then another look: an update could not be installed
# Each filter is 'include:' or 'exclude:' with an expression on the update in $_; the first one that holds decides, and an update that no
# filter is about is left out. Only SYSTEM may download and install (the update agent refuses remote sessions).
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$SUCCEEDED = 2
$SUCCEEDED_WITH_ERRORS = 3

$rules = foreach ($filter in $filters) {
    $word, $expression = $filter -split ':', 2
    if ($word -notin 'include', 'exclude' -or -not $expression) {
        [Console]::Error.WriteLine("the filter '$filter' is neither include:EXPRESSION nor exclude:EXPRESSION")
        exit 1
    }
    @{ Include = ($word -eq 'include'); Test = [ScriptBlock]::Create($expression) }
}

function Test-Wanted($update) {
    foreach ($rule in $rules) {
        if ($update | Where-Object $rule.Test) { return $rule.Include }
    }
    return $false
}

if ((New-Object -ComObject Microsoft.Update.SystemInfo).RebootRequired) {
    'a restart is pending'
    exit 101
}

$session = New-Object -ComObject Microsoft.Update.Session
$session.ClientApplicationID = 'lazuli'
$found = $session.CreateUpdateSearcher().Search($criteria).Updates
$wanted = New-Object -ComObject Microsoft.Update.UpdateColl
$more = $false
for ($i = 0; $i -lt $found.Count; $i++) {
    $update = $found.Item($i)
    # What asks questions while it is installed would wait for ever.
    if ($update.InstallationBehavior.CanRequestUserInput -or -not (Test-Wanted $update)) { continue }
    if ($wanted.Count -ge $limit) { $more = $true; break }
    if (-not $update.EulaAccepted) { $update.AcceptEula() }
    [void]$wanted.Add($update)
    "found: $($update.Title)"
}
if ($wanted.Count -eq 0) {
    'there are no updates to install'
    exit 0
}

$downloader = $session.CreateUpdateDownloader()
$downloader.Updates = $wanted
"downloads $($wanted.Count) updates"
[void]$downloader.Download()
$present = New-Object -ComObject Microsoft.Update.UpdateColl
for ($i = 0; $i -lt $wanted.Count; $i++) {
    if ($wanted.Item($i).IsDownloaded) { [void]$present.Add($wanted.Item($i)) }
    else { "could not be downloaded: $($wanted.Item($i).Title)" }
}
$failed = $present.Count -lt $wanted.Count
$restart = $false
if ($present.Count -gt 0) {
    $installer = $session.CreateUpdateInstaller()
    $installer.Updates = $present
    "installs $($present.Count) updates"
    $result = $installer.Install()
    $restart = $result.RebootRequired
    for ($i = 0; $i -lt $present.Count; $i++) {
        $one = $result.GetUpdateResult($i)
        if ($one.ResultCode -in $SUCCEEDED, $SUCCEEDED_WITH_ERRORS) { "installed: $($present.Item($i).Title)" }
        else {
            $failed = $true
            'could not be installed (0x{0:X8}): {1}' -f $one.HResult, $present.Item($i).Title
        }
    }
}
if ($failed) { exit 103 }
if ($restart) { exit 101 }
exit 102
