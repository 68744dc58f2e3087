# Runs a script file ($path) and ends as it ends: with the exit code of its last program, or 1 where it throws.
$ProgressPreference = 'SilentlyContinue'
$global:LASTEXITCODE = 0
try { & $path }
catch {
    [Console]::Error.WriteLine(($_ | Out-String))
    $global:LASTEXITCODE = 1
} finally { Remove-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue }
exit $LASTEXITCODE
