import { Dialog, InputDialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import type { IPrunable, ISandbox, ISnapshot } from '../tokens';
import { age, bytes, factsOf, nameOf } from '../words';

/**
 * Ask whether to roll back; null for no.
 */
export async function confirmRollback(
  sandbox: ISandbox,
  snapshot: ISnapshot,
  trans: TranslationBundle
): Promise<{ cells: boolean } | null> {
  const result = await showDialog({
    title: trans.__('Roll back to “%1”?', snapshot.name),
    body: (
      <div className="jp-VSandbox-dialog">
        <p>
          {trans.__(
            '%1 goes back to how it was %2.',
            nameOf(sandbox),
            age(snapshot.created, trans)
          )}
        </p>
        <p>
          {snapshot.memory
            ? trans.__(
                'Variables, installed packages and files in the machine that are newer leave it. A cell that runs is aborted.'
              )
            : trans.__(
                'Only the disk was kept: the kernel ends, all variables leave, and packages and files in the machine that are newer, too.'
              )}
        </p>
        <p>
          {trans.__(
            'Files in the folder of the notebook (~/work in the machine) stay as they are.'
          )}
        </p>
        <p className="jp-VSandbox-dialogGood">
          {trans.__(
            'Nothing is lost for good: what it leaves becomes a snapshot first, and a rollback to that undoes this one.'
          )}
        </p>
      </div>
    ),
    checkbox: snapshot.cells
      ? {
          label: trans.__('The cells of the notebook, too'),
          caption: trans.__(
            'The notebook’s file is replaced by what it was at that moment'
          ),
          checked: false
        }
      : null,
    buttons: [
      Dialog.cancelButton(),
      Dialog.warnButton({ label: trans.__('Roll Back') })
    ]
  });
  return result.button.accept ? { cells: result.isChecked === true } : null;
}

/**
 * Ask whether to promote a fork, and what becomes of its notebook; null for no.
 */
export async function confirmPromote(
  fork: ISandbox,
  origin: string,
  trans: TranslationBundle
): Promise<{ deleteNotebook: boolean } | null> {
  const path = fork.notebook_path;
  const result = await showDialog({
    title: trans.__('Promote %1?', nameOf(fork)),
    body: (
      <div className="jp-VSandbox-dialog">
        <p>
          {trans.__(
            '%1 goes on with the machine of this fork, and the fork is gone. What it leaves becomes a snapshot first.',
            origin
          )}
        </p>
        {path && (
          <p>
            {trans.__(
              'The cells of %1 are not taken along: what you have changed there is in no other notebook.',
              path
            )}
          </p>
        )}
      </div>
    ),
    checkbox: path
      ? {
          label: trans.__('Delete %1, which has no machine then', path),
          caption: trans.__('The notebook of the fork, with its tab'),
          checked: false
        }
      : null,
    buttons: [
      Dialog.cancelButton(),
      Dialog.okButton({ label: trans.__('Promote') })
    ]
  });
  return result.button.accept
    ? { deleteNotebook: result.isChecked === true }
    : null;
}

/**
 * Let the user choose one of some snapshots.
 */
export async function chooseSnapshot(
  snapshots: readonly ISnapshot[],
  title: string,
  trans: TranslationBundle
): Promise<ISnapshot | null> {
  const sorted = [...snapshots].sort((a, b) => b.created - a.created);
  const items = sorted.map(each => `${each.name} — ${factsOf(each, trans)}`);
  const { value } = await InputDialog.getItem({ title, items });
  return value === null ? null : (sorted[items.indexOf(value)] ?? null);
}

/**
 * Ask for some words; null where the user thought better of it.
 */
export async function askText(
  title: string,
  text: string,
  okLabel: string,
  placeholder?: string
): Promise<string | null> {
  const { value, button } = await InputDialog.getText({
    title,
    text,
    okLabel,
    placeholder
  });
  return button.accept ? (value ?? '') : null;
}

/**
 * Ask whether to go on with something that cannot be undone, or costs something.
 */
export async function confirm(
  title: string,
  body: string,
  label: string
): Promise<boolean> {
  const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label })];
  return (await showDialog({ title, body, buttons })).button.accept;
}

/**
 * Tell what a prune frees, and ask whether to.
 */
export async function confirmPrune(
  sandbox: ISandbox,
  { snapshots, bytes: freed }: IPrunable,
  trans: TranslationBundle
): Promise<boolean> {
  if (snapshots.length === 0) {
    await showDialog({
      title: trans.__('Nothing to prune'),
      body: trans.__(
        'All snapshots of %1 were asked for, or something stands on them.',
        nameOf(sandbox)
      ),
      buttons: [Dialog.okButton()]
    });
    return false;
  }
  const count = snapshots.length;
  return confirm(
    trans.__('Prune the history of %1?', nameOf(sandbox)),
    trans._n(
      '%1 snapshot that nobody asked for goes, which frees up to %2.',
      '%1 snapshots that nobody asked for go, which frees up to %2.',
      count,
      bytes(freed)
    ),
    trans.__('Prune')
  );
}
