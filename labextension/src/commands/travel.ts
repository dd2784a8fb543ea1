import { Notification } from '@jupyterlab/apputils';
import type { CommandRegistry } from '@lumino/commands';
import { forkIcon, rollbackIcon, snapshotIcon } from '../components/icons';
import type { IFork, IRollback, ISandbox, ISnapshot } from '../tokens';
import { nameOf, pause } from '../words';
import type { CommandArgs, ICommandContext } from './context';
import { attempt, DESCRIBED, Targets } from './context';
import { askText, chooseSnapshot, confirm, confirmRollback } from './dialogs';
import { CommandIDs } from './ids';

const ALIVE = ['running', 'hibernated'];

/**
 * The commands that travel in time.
 */
export function addTravelCommands(context: ICommandContext): void {
  const { app, service, store, trans } = context;
  const { commands } = app;
  const targets = new Targets(context);

  const snapshot = async (
    sandbox: ISandbox,
    name: string | null
  ): Promise<void> => {
    if (name === null) {
      return;
    }
    await targets.save(sandbox);
    const taken = await store.run<ISnapshot>('snapshot', sandbox.id, () =>
      service.snapshot(sandbox.id, name ? { name } : {})
    );
    Notification.success(
      trans.__(
        'Snapshot “%1” taken; the machine stood still for %2.',
        taken.name,
        pause(taken.pause, trans)
      ),
      { autoClose: 4000 }
    );
  };

  const rollBack = async (
    sandbox: ISandbox,
    to: ISnapshot,
    cells: boolean
  ): Promise<void> => {
    // What is left is to hold the cells as they are now.
    await targets.save(sandbox);
    const done = await store.run<IRollback>('rollback', sandbox.id, () =>
      service.rollback(sandbox.id, {
        snapshot: to.id,
        cells,
        memory: to.memory
      })
    );
    if (cells) {
      await targets.document(sandbox)?.revert();
    }
    const undo = done.undo;
    Notification.success(
      trans.__('%1 is back at “%2”.', nameOf(sandbox), to.name),
      {
        autoClose: 10000,
        actions: [
          {
            label: trans.__('Undo'),
            caption: trans.__('Roll forward to what was left'),
            callback: () => {
              const left = store.snapshots(sandbox.id)?.get(undo);
              if (left) {
                void attempt(() =>
                  rollBack(sandbox, left, cells && left.cells)
                );
              }
            }
          }
        ]
      }
    );
  };

  commands.addCommand(CommandIDs.snapshot, {
    describedBy: DESCRIBED,
    label: args =>
      args['toolbar']
        ? ''
        : args['menu']
          ? trans.__('Take a Snapshot…')
          : trans.__('Take a Snapshot of the Sandbox…'),
    caption: trans.__(
      'Keep the machine as it is: variables, packages, files and cells'
    ),
    icon: snapshotIcon,
    isEnabled: args => {
      const sandbox = targets.sandbox(args);
      return targets.free(sandbox) && sandbox.state !== 'starting';
    },
    isVisible: args => !args['toolbar'] || context.model.status.kind !== 'none',
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        if (!sandbox) {
          return;
        }
        const { askName, snapshotName } = context.settings();
        const name =
          typeof args['name'] === 'string'
            ? args['name']
            : askName && !args['quick']
              ? await askText(
                  trans.__('Take a Snapshot'),
                  snapshotName,
                  trans.__('Take'),
                  trans.__('Name (or leave it to the server)')
                )
              : snapshotName;
        await snapshot(sandbox, name);
      })
  });

  commands.addCommand(CommandIDs.rollback, {
    describedBy: DESCRIBED,
    label: args =>
      args['menu']
        ? trans.__('Roll Back to Here…')
        : trans.__('Roll Back the Sandbox…'),
    caption: trans.__('Put the machine back to a snapshot'),
    icon: rollbackIcon,
    isEnabled: args => targets.free(targets.sandbox(args)),
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        const to =
          sandbox &&
          (targets.snapshot(args) ??
            (await chooseSnapshot(
              await service.history(sandbox.id),
              trans.__('Roll back to…'),
              trans
            )));
        const sure = to && (await confirmRollback(sandbox, to, trans));
        if (sure) {
          await rollBack(sandbox, to, sure.cells);
        }
      })
  });

  commands.addCommand(CommandIDs.fork, {
    describedBy: DESCRIBED,
    label: args =>
      args['menu'] ? trans.__('Fork from Here') : trans.__('Fork the Sandbox'),
    caption: trans.__(
      'Go on in a second machine, with a copy of the notebook beside this one'
    ),
    icon: forkIcon,
    isEnabled: args => {
      const sandbox = targets.sandbox(args);
      return (
        targets.free(sandbox) &&
        (targets.snapshot(args) !== null || ALIVE.includes(sandbox.state))
      );
    },
    execute: (args: CommandArgs) =>
      attempt(async () => {
        const sandbox = targets.sandbox(args);
        if (!sandbox) {
          return;
        }
        const from = targets.snapshot(args);
        const owner = from?.sandbox ?? sandbox.id;
        await targets.save(sandbox);
        const fork = await store.run<IFork>('fork', owner, () =>
          service.fork(owner, {
            ...(from && { snapshot: from.id }),
            notebook: true
          })
        );
        if (fork.notebook) {
          await openBeside(commands, fork);
        } else {
          Notification.info(
            trans.__(
              'The fork runs. It has no notebook: there are no cells of that moment.'
            )
          );
        }
        const { state, memory_anywhere } = fork.sandbox;
        if (state === 'stopped' && memory_anywhere === false) {
          Notification.info(
            trans.__(
              'The fork has the disk alone and boots with its kernel: here, the memory of a snapshot goes back into its own machine only.'
            )
          );
        }
      })
  });

  addSnapshotCommands(context, targets);
}

/**
 * Open the notebook of a fork beside the one in front; its kernel attaches to the fork.
 */
export async function openBeside(
  commands: CommandRegistry,
  fork: IFork
): Promise<void> {
  await commands.execute('docmanager:open', {
    path: fork.notebook,
    factory: 'Notebook',
    kernel: { name: fork.kernel },
    options: { mode: 'split-right' }
  });
}

function addSnapshotCommands(context: ICommandContext, targets: Targets): void {
  const { app, service, store, trans } = context;

  const add = (
    id: string,
    label: string,
    work: (snapshot: ISnapshot) => Promise<unknown>
  ) => {
    app.commands.addCommand(id, {
      describedBy: DESCRIBED,
      label,
      isEnabled: args =>
        store.connection.kind === 'live' && targets.snapshot(args) !== null,
      execute: (args: CommandArgs) =>
        attempt(async () => {
          const snapshot = targets.snapshot(args);
          if (snapshot) {
            await work(snapshot);
          }
        })
    });
  };

  add(CommandIDs.renameSnapshot, trans.__('Rename…'), async snapshot => {
    const name = await askText(
      trans.__('Rename Snapshot'),
      snapshot.name,
      trans.__('Rename')
    );
    if (name) {
      await service.changeSnapshot(snapshot, { name });
    }
  });
  add(CommandIDs.annotateSnapshot, trans.__('Annotate…'), async snapshot => {
    const note = await askText(
      trans.__('Note on “%1”', snapshot.name),
      snapshot.note,
      trans.__('Save')
    );
    if (note !== null) {
      await service.changeSnapshot(snapshot, { note });
    }
  });
  add(CommandIDs.removeSnapshot, trans.__('Delete…'), async snapshot => {
    const sure = await confirm(
      trans.__('Delete the snapshot “%1”?', snapshot.name),
      trans.__('It is removed for good; what follows it stays.'),
      trans.__('Delete')
    );
    if (sure) {
      await store.run('delete_snapshot', snapshot.sandbox, () =>
        service.deleteSnapshot(snapshot)
      );
    }
  });
}
