import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ILabShell, ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Token } from '@lumino/coreutils';
import type { ICommandContext, ISandboxSettings } from '../commands';
import { addCommands, CommandIDs } from '../commands';
import { addViewCommands } from '../commands/views';
import { sandboxIcon } from '../components/icons';
import { Sidebar } from '../panels/sidebar';
import { ISandboxModel, ISandboxService, ISandboxStore } from '../tokens';

const DEFAULTS: ISandboxSettings = {
  askName: true,
  snapshotName: '',
  foldAutomatic: true,
  upgradeCommand: 'pip install --upgrade '
};

/**
 * The settings, as they are now. There when the commands are.
 */
type Settings = () => ISandboxSettings;
const Settings = new Token<Settings>('jupyter-vsandbox:Settings');

export const commands: JupyterFrontEndPlugin<Settings> = {
  id: 'jupyter-vsandbox:plugin',
  description: 'Commands on the machines behind notebook kernels.',
  autoStart: true,
  requires: [
    ISandboxService,
    ISandboxStore,
    ISandboxModel,
    IDocumentManager,
    IRenderMimeRegistry
  ],
  optional: [ILabShell, ISettingRegistry, ICommandPalette, ITranslator],
  provides: Settings,
  activate: (
    app: JupyterFrontEnd,
    service: ISandboxService,
    store: ISandboxStore,
    model: ISandboxModel,
    documents: IDocumentManager,
    rendermime: IRenderMimeRegistry,
    labShell: ILabShell | null,
    registry: ISettingRegistry | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null
  ) => {
    const trans = (translator ?? nullTranslator).load('jupyter_vsandbox');
    let current = DEFAULTS;
    const settings = () => current;
    const context: ICommandContext = {
      app,
      service,
      store,
      model,
      documents,
      area: labShell ? 'main' : 'down',
      trans,
      settings
    };
    addCommands(context);
    addViewCommands(context, rendermime);

    registry
      ?.load(commands.id)
      .then(loaded => {
        const read = () => {
          current = {
            ...DEFAULTS,
            ...(loaded.composite as Partial<ISandboxSettings>)
          };
        };
        loaded.changed.connect(read);
        read();
      })
      .catch((error: unknown) => {
        console.warn('jupyter-vsandbox: no settings', error);
      });

    const category = trans.__('Sandbox');
    for (const command of [
      CommandIDs.snapshot,
      CommandIDs.rollback,
      CommandIDs.fork,
      CommandIDs.diff,
      CommandIDs.tryUpgrade,
      CommandIDs.promote,
      CommandIDs.hibernate,
      CommandIDs.wake,
      CommandIDs.start,
      CommandIDs.stop,
      CommandIDs.reset,
      CommandIDs.prune,
      CommandIDs.rename,
      CommandIDs.addRuntime
    ]) {
      palette?.addItem({ command, category });
    }
    return settings;
  }
};

export const sidebar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-vsandbox:sidebar',
  description: 'The sidebar: this notebook, its history, sandboxes, runtimes.',
  autoStart: true,
  requires: [ISandboxStore, ISandboxModel, Settings],
  optional: [ILayoutRestorer, ICommandPalette, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    store: ISandboxStore,
    model: ISandboxModel,
    settings: Settings,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null
  ) => {
    const known = translator ?? nullTranslator;
    const trans = known.load('jupyter_vsandbox');
    const panel = new Sidebar(
      { commands: app.commands, store, model, trans, settings },
      known
    );
    app.shell.add(panel, 'right', { rank: 900, type: 'Sandbox' });
    restorer?.add(panel, panel.id);

    app.commands.addCommand(CommandIDs.show, {
      describedBy: { args: { type: 'object', properties: {} } },
      label: trans.__('Show the Sandbox Panel'),
      icon: sandboxIcon,
      execute: () => {
        app.shell.activateById(panel.id);
      }
    });
    palette?.addItem({
      command: CommandIDs.show,
      category: trans.__('Sandbox')
    });
  }
};
