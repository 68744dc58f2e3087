# Writes a file of lines of base64 that end with a dot, and prints its size. PowerShell itself reads the standard input, for the pipeline.
begin {
    $path = $null
    $ErrorActionPreference = 'Stop'
    $ProgressPreference = 'SilentlyContinue'
    function Stop-Upload($why) {
        if ($file) { $file.Dispose() }
        [Console]::Error.WriteLine($why)
        exit 1
    }
    $ended = $false
    try {
        $folder = [IO.Path]::GetDirectoryName($path)
        if ($folder) { [void][IO.Directory]::CreateDirectory($folder) }
        $file = [IO.File]::Create($path)
    } catch { Stop-Upload $_.Exception.Message }
}
process {
    $line = "$_".Trim()
    try {
        if ($line -eq '.') { $ended = $true }
        elseif ($line) {
            $bytes = [Convert]::FromBase64String($line)
            $file.Write($bytes, 0, $bytes.Length)
        }
    } catch { Stop-Upload $_.Exception.Message }
}
end {
    if (-not $ended) { Stop-Upload 'what was to be written did not come to its end' }
    try { $file.Dispose() } catch { Stop-Upload $_.Exception.Message }
    [Console]::Out.Write((New-Object IO.FileInfo $path).Length)
}
