# shellcheck shell=bash
# Completion of nettrace for bash.

# What there is of a kind. What is named on the host is quoted: it goes into a command line.
_nettrace_words() {
    local folder='' path
    case $1 in
@WORDS@
    device) folder=/sys/class/net ;;
    namespace) folder=/run/netns ;;
    esac
    for path in "$folder"/*; do
        [[ $folder && -e $path ]] && words+=("$(printf %q "${path##*/}")")
    done
}

_nettrace() {
    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} before='' kind='' word words=()
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == -- ]] && return
    done
    # Bash takes --option=value for three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $option == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ ${COMP_WORDS[COMP_CWORD - 2]} == --diff ]]; then
        option=--diff
    fi
    case $option in
@OPTIONS@
    *) kind=option ;;
    esac
    case $kind in
    file)
        compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    trace | reason | column) # several, with commas
        before=${current%"${current##*,}"}
        ;;
    esac
    _nettrace_words "$kind"
    for word in "${words[@]}"; do
        [[ $word == "${current##*,}"* ]] && COMPREPLY+=("$before$word")
    done
}

complete -F _nettrace nettrace
