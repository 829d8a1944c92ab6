# Completion of nettrace for fish.

# What there is of a kind, with what it means behind a tab.
function __nettrace_words
    switch $argv[1]
@WORDS@
        case device
            command ls /sys/class/net 2>/dev/null
        case namespace
            command ls /run/netns 2>/dev/null
    end
end

# The same behind what is there already, up to the last comma.
function __nettrace_list
    set -l before (commandline -ct | string replace -r '^--[^=]*=' '' | string match -r '.*,')
    for line in (__nettrace_words $argv[1])
        echo "$before$line"
    end
end

complete -c nettrace -f
complete -c nettrace -n 'set -l words (commandline -opc); test "$words[-2]" = --diff' -F
@OPTIONS@
