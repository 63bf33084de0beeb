<#
.SYNOPSIS
Starts Touchstone's agent with Windows.

.DESCRIPTION
The agent is a Linux program: on Windows it runs in WSL2, beside a container engine there, and is enrolled there as on any
Linux, with --no-service. This script makes a Scheduled Task that runs it from the start of Windows on, and starts it again
when it ends. Nothing is registered unless the agent's self-test passes. Run it as administrator, as the user whose WSL it is.

.PARAMETER Distribution
The WSL distribution in which the agent was enrolled; `wsl --list` names them.

.PARAMETER Remove
Ends the agent and removes the task. `touchstone agent remove` does the rest.
#>
[CmdletBinding()]
param(
    [ValidatePattern('^[A-Za-z0-9._-]{1,64}$')]
    [string] $Distribution = 'Debian',
    [switch] $Remove
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$taskName = "Touchstone agent ($Distribution)"
$installer = '/opt/touchstone-agent/install.py'
$doctor = '/opt/touchstone-agent/current/bin/touchstone-agent'
$settings = '/etc/touchstone-agent/agent.toml'
$ended = 0

function Invoke-Distribution {
    param([string[]] $Arguments)
    & wsl.exe --distribution $Distribution --user root --exec @Arguments | Out-Host
    $script:ended = $LASTEXITCODE
}

if (-not (Get-Command -Name 'wsl.exe' -ErrorAction SilentlyContinue)) {
    Write-Error 'WSL: there is no wsl.exe: install WSL2 (wsl --install), then enrol this server in it.'
    exit 1
}

if ($Remove) {
    if (Get-ScheduledTask -TaskName $taskName -ErrorAction SilentlyContinue) {
        Stop-ScheduledTask -TaskName $taskName
        Unregister-ScheduledTask -TaskName $taskName -Confirm:$false
    }
    Invoke-Distribution -Arguments @('/usr/bin/python3', '-I', $installer, 'stop')
    Write-Output "$taskName is gone."
    exit 0
}

# The same list as `touchstone-agent doctor` on any server; it says itself what is to be done.
Invoke-Distribution -Arguments @($doctor, 'doctor', '--config', $settings)
if ($ended -ne 0) {
    Write-Error 'The self-test fails: nothing was registered.'
    exit 1
}

# What enrolment has started in the background gives way to the task.
Invoke-Distribution -Arguments @('/usr/bin/python3', '-I', $installer, 'stop')

$action = New-ScheduledTaskAction -Execute 'wsl.exe' -Argument (
    "--distribution $Distribution --user root --exec /usr/bin/python3 -I $installer supervise"
)
$trigger = New-ScheduledTaskTrigger -AtStartup
$principal = New-ScheduledTaskPrincipal -UserId "$env:USERDOMAIN\$env:USERNAME" -LogonType S4U -RunLevel Highest
$options = New-ScheduledTaskSettingsSet -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) `
    -ExecutionTimeLimit ([TimeSpan]::Zero) -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
    -MultipleInstances IgnoreNew

Register-ScheduledTask -TaskName $taskName -Action $action -Trigger $trigger -Principal $principal `
    -Settings $options -Description 'Runs attempts of prediction model trainings' -Force | Out-Null
Start-ScheduledTask -TaskName $taskName
Write-Output "$taskName runs from now on, and with each start of Windows."
